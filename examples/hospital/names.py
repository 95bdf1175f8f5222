"""Names of invented people and places. Pools of different kinds share no name, so no fact repeats by accident."""

INSTITUTIONS = (
    "st_marys", "lakeside", "northgate", "riverview", "queens_park", "holy_cross", "eastfield", "old_mill",
    "grand_union", "bayfront", "fairholm", "ridgemont",
)  # fmt: skip

GIVEN_NAMES = (
    "Adele", "Agnes", "Albert", "Alma", "Amira", "Amos", "Anders", "Anton", "Ariadne", "August", "Basil", "Beatrix",
    "Benita", "Bertha", "Bogdan", "Boris", "Brigid", "Bruno", "Camille", "Carmen", "Casper", "Cedric", "Celia",
    "Chidi", "Clara", "Conrad", "Cora", "Cosmo", "Daphne", "Darius", "Delia", "Desmond", "Dinah", "Dora", "Edgar",
    "Edith", "Elena", "Elias", "Emil", "Enid", "Ernest", "Estelle", "Esther", "Eugene", "Eva", "Fabian", "Fatima",
    "Felix", "Ferdinand", "Fiona", "Flora", "Frieda", "Gideon", "Gloria", "Greta", "Gustav", "Hanna", "Harold",
    "Hector", "Helga", "Henrik", "Hilda", "Horace", "Hugo", "Ida", "Imogen", "Ines", "Ingrid", "Iris", "Isaac",
    "Ivan", "Jasper", "Joan", "Jonas", "Josef", "Judith", "Julia", "Karim", "Kasper", "Katya", "Lars", "Laszlo",
    "Leila", "Leonie", "Leopold", "Linus", "Lionel", "Lucia", "Lydia", "Mabel", "Magnus", "Malcolm", "Marius",
    "Marta", "Matilda", "Maud", "Maxim", "Milo", "Mina", "Miriam", "Monica", "Nadia", "Nathan", "Niamh", "Norbert",
    "Odette", "Olga", "Oscar", "Otto", "Paloma", "Percy", "Petra", "Quentin", "Rafael", "Ramona", "Renata",
    "Roland", "Rosa", "Rupert", "Salome", "Selma", "Silas", "Sonia", "Stefan", "Tabitha", "Teodor", "Thea",
    "Tobias", "Ursula", "Vera", "Victor", "Viola", "Walter", "Wanda", "Xavier", "Yara", "Yusuf", "Zelda", "Zoran",
)  # fmt: skip

FAMILY_NAMES = (
    "Abbott", "Alvarez", "Ashdown", "Bancroft", "Becker", "Birch", "Calloway", "Castel", "Cho", "Crane", "Dalton",
    "Delgado", "Draper", "Eklund", "Emery", "Farrow", "Fenwick", "Fischer", "Garner", "Gibbs", "Granger", "Haddad",
    "Halpern", "Hartley", "Ibarra", "Ingram", "Jansen", "Jarvis", "Kaplan", "Kerr", "Kowalski", "Lambert", "Larkin",
    "Lindgren", "Maddox", "Marlow", "Mercer", "Nakata", "Navarro", "Novak", "Oakes", "Okafor", "Orsini", "Palmer",
    "Pascal", "Pryce", "Quigley", "Ramsey", "Reyes", "Rosen", "Sandoval", "Sharpe", "Sorensen", "Tanaka", "Thorne",
    "Tully", "Underhill", "Vance", "Vasquez", "Volkov", "Wexler", "Whitcombe", "Winslow", "Yamada", "Yates",
    "Zeller", "Ziegler", "Zima",
)  # fmt: skip

DIRECTORS = (
    "Aldous Pemberton", "Bettina Kroll", "Cyril Mbeki", "Dorothea Lange", "Emeric Szabo", "Francesca Bellini",
    "Gunnar Hallstrom", "Hortense Dubois", "Isidore Blum", "Jacinta Morales", "Kenneth Strand", "Lavinia Croft",
)  # fmt: skip

PHYSICIANS = (
    "Acheson", "Amsel", "Barlow", "Bhatt", "Bonham", "Carver", "Chandra", "Corbin", "Dacosta", "Doyle", "Easton",
    "Ellery", "Finch", "Fontaine", "Fraser", "Gallo", "Grieve", "Hensley", "Hollis", "Hume", "Iyer", "Jebb",
    "Joshi", "Keating", "Kimura", "Kinsey", "Laurent", "Lowry", "Malik", "Mistry", "Nyberg", "Osborne", "Pereira",
    "Pike", "Raman", "Rowe", "Salter", "Shah", "Sinclair", "Stroud", "Teller", "Usman", "Varga", "Waverly", "Xu",
    "Yoder", "Zaman", "Zander",
)  # fmt: skip

CITIES = (
    "Aldermoor", "Brackwater", "Carrowby", "Dunmere", "Elverton", "Fallowick", "Glenharrow", "Hexley", "Inverloch",
    "Kestrel Bay", "Lowenfeld", "Marrowgate",
)  # fmt: skip

STREETS = (
    "Mill Lane", "Harbour Road", "Chapel Street", "Orchard Row", "Station Square", "Abbey Walk", "Foundry Way",
    "Linden Avenue", "Castle Hill", "Market Place", "Ferry Quay", "Priory Gardens",
)  # fmt: skip

RELATIVES = (
    "spouse", "parent", "child", "sibling", "cousin", "grandchild", "guardian",
)  # fmt: skip

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
